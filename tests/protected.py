"""Weaknesses that systems selling through AWS Marketplace have been seen with, each protected against by a test here.

A test that protects against one bears the mark ``@pytest.mark.protects(Weakness.…)``; none may be without a test.
"""

from __future__ import annotations

from enum import StrEnum


class Weakness(StrEnum):
    """What goes wrong elsewhere, in one sentence."""

    # Registration, grant, revocation
    REGISTRATION_FORGETS_EVENTS = "a registration overwrites what an earlier event said, so the buyer never gets in"
    END_REACHES_TOO_FAR = "the end or renewal of one agreement shuts out the buyer's other agreements and products"
    OLD_TOKEN_REVIVES = "a registration token that is posted again after the end gives access back"
    PLAN_CHOSEN_BY_CUSTOMER = "the usage plan is looked up by the customer instead of the product, so it is another's"
    NOTIFICATION_MISREAD = "some of the five notifications break the handler or have the effect of another"
    CHEAPER_TOKEN = "a token for one product is accepted for another one, which costs more"
    ACCESS_BEFORE_ACTIVATION = "a key works as soon as the buyer has registered, even if the subscription fails"
    REQUEST_GOES_ON_AFTER_REFUSAL = (
        "a request without a token is refused and then carried out; a first buyer gets no key"
    )
    PREFIX_OF_ANOTHER_ID = "a buyer whose id begins like another's gets the other one's key"
    REQUEST_IS_STORED = "whatever fields a buyer posts are stored, such as a status of the buyer's own choice"
    MISSING_FIELD_IS_A_FAULT = "a missing field is answered as a fault of the server, without a word on which"
    POISON_BLOCKS_ALL = "one message with an odd value blocks every other buyer's for a day"
    FAILED_ENTRY_IS_LOST = "what AWS refused of a request is not looked at, so an event is lost"
    ONE_KEY_PER_ACCOUNT = "two products or two agreements of one account overwrite each other"
    FIRST_ENTITLEMENT_ONLY = "only the first entitlement of the first page decides whether a contract holds"
    FAILED_CALL_IS_AN_ANSWER = "a failed call replaces good data, or gives back what the event had ended"
    GRANT_HIDES_EXPIRY = "an agreement that is granted and expired at once counts as granted"
    UNKNOWN_MESSAGE_IS_DROPPED = (
        "a message of a new kind is dropped, or takes its whole batch along, and nobody is told"
    )
    FIRST_TIME_IS_NOT_KEPT = "when a buyer first came is overwritten, and a mail that fails is lost or fails the buyer"
    LATE_EVENT_REVIVES = "an end before its beginning is dropped, and two deliveries at once count twice"
    STATE_IS_LOST = "state lives in one process; a pending end counts as the end, and the end itself is not handled"
    FORGED_NOTIFICATION = "anybody's topic can end a subscription"
    TOKEN_BECOMES_MARKUP = "a token is written into the page as it came, and runs there"
    STRANGERS_WRITE_USAGE = "a role that trusts the buyer's account may write any buyer's usage"
    SECRETS_IN_LOGS = "tokens, keys and addresses stand in logs, redirects and addresses of pages"
    BUYERS_SHUT_OUT_BY_COUNTRY = "buyers outside two countries, or behind a VPN, cannot register"
    CODE_FROM_ELSEWHERE = "the functions' code is fetched from a stranger's bucket, in one Region only"
    DEAD_LETTERS_DIE = "dead letters are kept for an hour and no alarm tells of them, or no queue takes them"
    # Metering
    UNPROCESSED_IS_DONE = "records that AWS left unprocessed, or did not name at all, are marked as done"
    FAILED_CALL_DROPS_USAGE = "a call that is throttled or lost takes its usage along, and nobody is told"
    TIME_OF_SENDING = "a record bears the time of sending: a wrong hour, and another record each time it is sent again"
    BOOKKEEPING_BILLS_AGAIN = "what fails after AWS has taken a record marks it as failed, and it is billed again"
    ONE_FAILS_ALL = "one record that fails marks its neighbours as failed, which are then billed again"
    PENDING_NOT_PAGED = "only the first page of what is pending is seen, and two runs at once bill it twice"
    BATCH_NOT_SPLIT = "more than 25 records, or more than 1 MB, fail as a whole"
    UNPROCESSED_MISREAD = "unprocessed records are looked for under a name that AWS does not use"
    RAW_ROWS_SENT = "the second row of an hour is a duplicate to AWS, and is lost"
    FAILURE_FOR_EVER = "a record that AWS will never take is tried for ever, and takes its batch along each time"
    ANYTHING_IS_SUCCESS = "missing credentials, dry runs and refusals count as billed"
    RUNNING_TOTAL_BILLED = "the running total is billed each hour anew"
    NO_FINAL_FLUSH = "the usage of an agreement's last hour is never reported"
    FAILURE_WITHOUT_ALARM = "a metering failure is caught, and no alarm tells of it"
    METER_CHANGES_SUBSCRIBERS = "whoever reports usage may change or delete subscribers"
    MONTH_END_IGNORED = "a month's last usage is sent when AWS takes it no more"
    UNDETECTED_ERRORS = "errors of the meter that nothing can detect, and nothing to try it with before it bills"
