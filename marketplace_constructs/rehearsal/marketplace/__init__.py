"""A stand-in for AWS Marketplace on this machine: its APIs, its notifications and its rules, without AWS.

Rooms: ``market`` is Marketplace itself, in memory. ``agreements`` holds what it knows, ``notifications``
what it tells, ``delivery`` how that arrives, ``operations`` and ``metering`` what its APIs answer, ``trail`` what
CloudTrail shows of it,
``settings`` what AWS leaves open, ``faults`` what may go wrong. ``models`` reads botocore's service models,
``server`` speaks HTTP, and ``control`` is the API with which a rehearsal drives it all from outside.

What passes here shows that a seller's code follows the rules as AWS writes them down, not that AWS behaves
so.
"""

from marketplace_constructs.rehearsal.marketplace.agreements import Agreement, AgreementStatus, Buyer, Listing
from marketplace_constructs.rehearsal.marketplace.clock import SettableClock
from marketplace_constructs.rehearsal.marketplace.faults import FaultKind
from marketplace_constructs.rehearsal.marketplace.market import Caller, Marketplace
from marketplace_constructs.rehearsal.marketplace.metering import (
    AcceptedRecord,
    Meter,
    Violation,
    ViolationRule,
)
from marketplace_constructs.rehearsal.marketplace.models import ApiError
from marketplace_constructs.rehearsal.marketplace.notifications import (
    EventBridgeEvent,
    Notification,
    SnsMessage,
)
from marketplace_constructs.rehearsal.marketplace.server import MarketplaceServer
from marketplace_constructs.rehearsal.marketplace.settings import Deprovisioning, IdenticalResend, Settings

__all__ = [
    "AcceptedRecord",
    "Agreement",
    "AgreementStatus",
    "ApiError",
    "Buyer",
    "Caller",
    "Deprovisioning",
    "EventBridgeEvent",
    "FaultKind",
    "IdenticalResend",
    "Listing",
    "Marketplace",
    "MarketplaceServer",
    "Meter",
    "Notification",
    "SettableClock",
    "Settings",
    "SnsMessage",
    "Violation",
    "ViolationRule",
]
