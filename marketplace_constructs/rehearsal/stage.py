"""The stage: a local AWS with the app's stacks in it, Marketplace beside it, buyers before it."""

from __future__ import annotations

import json
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar

from marketplace_constructs.domain.metering_rules import RUNS_EVERY
from marketplace_constructs.domain.plan_versions import EVERY_CALL
from marketplace_constructs.domain.product import (
    NATIVE_DIMENSION,
    Category,
    Dimension,
    DimensionType,
    Product,
    ProductTerms,
)
from marketplace_constructs.rehearsal import deployment
from marketplace_constructs.rehearsal.access_log import AccessLogs
from marketplace_constructs.rehearsal.deployment import LEFT_OUT, DeployedStack
from marketplace_constructs.rehearsal.emulator import ACCOUNT, REGION, LocalAws, function_key_id
from marketplace_constructs.rehearsal.errors import CouldNotRehearse
from marketplace_constructs.rehearsal.events import EventDelivery
from marketplace_constructs.rehearsal.example_calls import read_calls
from marketplace_constructs.rehearsal.gateway import Gateway
from marketplace_constructs.rehearsal.marketplace import (
    Listing,
    Marketplace,
    MarketplaceServer,
    SettableClock,
)
from marketplace_constructs.rehearsal.native_meter import NativeMeter
from marketplace_constructs.runtime.settings import MeterSettings, OnboardingSettings, SettingsError

if TYPE_CHECKING:
    from marketplace_constructs.rehearsal.visit import Visitor

_ONBOARDING: Final = "marketplace_constructs.runtime.onboarding.handler.handler"
_RECONCILIATION: Final = "marketplace_constructs.runtime.agreements.reconciliation.handler"
_METER: Final = "marketplace_constructs.runtime.metering.meter.handler"
_PLANS_TYPE: Final = "Custom::MarketplacePlans"
_REGISTRATION_PATH: Final = "/register"


@dataclass(frozen=True)
class Route:
    """A method of a deployed API."""

    method: str
    path: str
    requires_key: bool
    authorization: str

    @property
    def is_open(self) -> bool:
        """Whether anybody may call it."""
        return not self.requires_key and self.authorization == "NONE"

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """The meter that was deployed with a sale.

    Args:
        function: Its name.
        settings: What it was deployed with.
    """

    function: str
    settings: MeterSettings


class SaleKind(StrEnum):
    """What a scenario may need of a sale."""

    NATIVE = "native metering"
    PIPELINE = "pipeline metering"
    METERED = "pipeline metering that bills"
    REPORTED = "native metering and report_usage"
    CONCURRENT = "concurrent agreements"
    PLANNED = "plans by documents"
    METERED_BY_PLANS = "pipeline metering of plans by documents"


@dataclass(frozen=True, kw_only=True)
class Sale:
    """One SellableApi that was deployed.

    Args:
        stack: Its stack.
        settings: What its onboarding function was deployed with.
        listing: Its product on the Marketplace stand-in.
        fulfillment_url: As AWS would serve it.
        api_id: The sold API.
        reconciliation: Name of the function that repairs; empty where there is none.
        meter: API Gateway's own meter, played; it reports only where everything is in place.
        pipeline: The meter that reads the access log; None where there is none.
    """

    stack: DeployedStack
    settings: OnboardingSettings
    listing: Listing
    fulfillment_url: str
    api_id: str
    reconciliation: str
    meter: NativeMeter
    pipeline: Pipeline | None

    @property
    def terms(self) -> ProductTerms:
        """How the product is sold."""
        return self.settings.terms

    def is_of(self, kind: SaleKind) -> bool:
        """Whether it is of a kind."""
        is_metered, is_native = self.pipeline is not None, self.terms.is_native
        return {
            SaleKind.NATIVE: is_native,
            SaleKind.REPORTED: is_native and is_metered,
            SaleKind.PIPELINE: not is_native,
            SaleKind.METERED: not is_native and is_metered,
            SaleKind.CONCURRENT: not self.terms.is_legacy,
            SaleKind.PLANNED: self._has_documents,
            SaleKind.METERED_BY_PLANS: not is_native and is_metered and self._has_documents,
        }[kind]

    @property
    def _has_documents(self) -> bool:
        """Whether documents say what its plans are; without them a meter has a plan of its own, of every call."""
        ids = self.stack.physical_ids
        return any(
            ids.get(plan["UsagePlanId"]["Ref"]) == self.settings.usage_plan_id and plan["Plan"] != EVERY_CALL
            for resource in self.stack.template["Resources"].values()
            if resource["Type"] == _PLANS_TYPE
            for plan in resource["Properties"]["Plans"]
        )


class Stage:
    """Sets everything up when entered and takes it all down when left.

    Args:
        directory: Where the app is.
        say: Told what is going on, a line at a time.
        seed: Equal seeds give equal ids of buyers and agreements.

    Attributes:
        phases: How many seconds each part of the set-up took.
        stacks: What was deployed.
        sales: Every SellableApi in it.
        visitors: Every buyer who ever came.
        example_calls: What the app says that buyers call; nothing where it does not say.
    """

    def __init__(self, directory: Path, *, say: Callable[[str], None] = lambda _: None, seed: int = 0) -> None:
        self._directory: Final = directory
        self.example_calls: Final = read_calls(directory)
        self._say: Final = say
        self._exit = ExitStack()
        self.clock: Final = SettableClock()
        self._delivery: EventDelivery | None = None
        self.market: Final = Marketplace(
            self.clock,
            # Looked up when it is called: there is nobody to deliver to before the local AWS is up.
            publish=lambda notification: self.events.publish(notification),  # noqa: PLW0108
            seed=seed,
            seller_account=ACCOUNT,
        )
        self.phases: dict[str, float] = {}
        self.stacks: list[DeployedStack] = []
        self.sales: list[Sale] = []
        self.visitors: list[Visitor] = []
        self._roles: dict[str, str] = {}

    @property
    def left_out(self) -> dict[str, str]:
        """What of the templates was not deployed, and what stands in for it."""
        kinds = {kind for stack in self.stacks for kind in stack.left_out.values()}
        return {kind: LEFT_OUT[kind] for kind in sorted(kinds)}

    @property
    def events(self) -> EventDelivery:
        """How Marketplace's notifications arrive."""
        assert self._delivery is not None
        return self._delivery

    def __enter__(self) -> Self:
        try:
            self._set_up()
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def sale(self, kind: SaleKind) -> Sale:
        """The first sale of a kind.

        Raises:
            CouldNotRehearse: MP-REHEARSE-21, the app has none.
        """
        found = self.sales_of(kind)
        if not found:
            raise CouldNotRehearse(
                "MP-REHEARSE-21",
                f"the app, got no SellableApi with {kind}; expected one; choose another scenario",
            )
        return found[0]

    def sales_of(self, kind: SaleKind | None) -> list[Sale]:
        """The sales of a kind, or all."""
        return [sale for sale in self.sales if kind is None or sale.is_of(kind)]

    def routes(self, api_id: str) -> list[Route]:
        """The methods of a deployed API, by path and method, without CORS."""
        pages = (
            self.aws.client("apigateway").get_paginator("get_resources").paginate(restApiId=api_id, embed=["methods"])
        )
        return sorted(
            (
                Route(
                    name,
                    item["path"],
                    bool(method.get("apiKeyRequired")),
                    method.get("authorizationType", "NONE"),
                )
                for page in pages
                for item in page["items"]
                for name, method in item.get("resourceMethods", {}).items()
                if name != "OPTIONS"
            ),
            key=lambda route: (route.path, route.method),
        )

    def reconcile(self, sale: Sale, buyer: str) -> None:
        """Run the deployed reconciliation for one buyer, as its schedule does for all.

        Raises:
            CouldNotRehearse: MP-REHEARSE-22, there is none, or it failed.
        """
        answer = self.aws.client("lambda").invoke(
            FunctionName=sale.reconciliation, Payload=json.dumps({"buyer": buyer}).encode()
        )
        if answer.get("FunctionError"):
            raise CouldNotRehearse(
                "MP-REHEARSE-22",
                f"the reconciliation of {sale.stack.name}, got {answer['Payload'].read().decode()!r}; "
                "expected it to run; see the log of the local AWS with --serve",
            )

    def run_meter(self, sale: Sale) -> None:
        """Run the deployed meter, as its schedule does.

        Raises:
            CouldNotRehearse: MP-REHEARSE-28, it failed, or the local AWS cannot run it.
        """
        assert sale.pipeline is not None
        event = {"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}}
        answer = self.aws.client("lambda").invoke(
            FunctionName=sale.pipeline.function, Payload=json.dumps(event).encode()
        )
        said = answer["Payload"].read().decode()
        # The handler answers nothing; the emulator's stand-in for code that it cannot run does.
        if answer.get("FunctionError") or said != "null":
            raise CouldNotRehearse(
                "MP-REHEARSE-28",
                f"the meter of {sale.stack.name}, got {said!r}; expected it to run; see the log of the local AWS with "
                "--serve",
            )

    def put_usage_event(self, sale: Sale, detail: Mapping[str, object]) -> bool:
        """Let a backend of the seller's tell usage, on the bus that the stack has for it.

        Args:
            sale: Whose.
            detail: A CloudEvent.

        Returns:
            Whether a rule takes it in.
        """
        assert self._delivery is not None
        (bus,) = sale.stack.of_type("AWS::Events::EventBus").values()
        now = self.clock.now()
        envelope = {
            "version": "0",
            "id": str(uuid.uuid4()),
            "detail-type": detail.get("type"),
            "source": "example.backend",
            "account": ACCOUNT,
            "time": f"{now:%Y-%m-%dT%H:%M:%SZ}",
            "region": REGION,
            "resources": [],
            "detail": detail,
        }
        return bool(self._delivery.put_event(envelope, bus=bus))

    def let_pass(self, sale: Sale, until: datetime) -> None:
        """Let time pass, with the meter run whenever its schedule would."""
        while (now := self.clock.now()) < until:
            self.clock.advance(min(RUNS_EVERY, until - now))
            self.run_meter(sale)

    @contextmanager
    def functions_told(self, sale: Sale, name: str, value: str) -> Iterator[None]:
        """Give every function of a sale that has a setting another value for it, and its own again afterwards."""
        functions = self.aws.client("lambda")
        before = {}
        for function in sale.stack.of_type("AWS::Lambda::Function").values():
            variables = _variables(functions.get_function_configuration(FunctionName=function))
            if name in variables:
                before[function] = variables
                functions.update_function_configuration(
                    FunctionName=function, Environment={"Variables": {**variables, name: value}}
                )
        try:
            yield
        finally:
            for function, variables in before.items():
                functions.update_function_configuration(FunctionName=function, Environment={"Variables": variables})

    @contextmanager
    def changed_app(self) -> Iterator[Path]:
        """A copy of the app's sources, to be changed and deployed with ``update``."""
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / "app"
            deployment.copy_app(self._directory, copy)
            yield copy

    def update(self, sale: Sale, directory: Path | None = None) -> None:
        """Deploy the stack of a sale once more.

        Args:
            sale: Remains as it is, whatever the update changes.
            directory: Where another app is that has the stack; left out, as it was deployed first.

        Raises:
            CouldNotRehearse: As of ``synthesize`` and ``deploy``.
        """
        # The app's own sources may have changed since.
        assembly = self._assembly if directory is None else deployment.synthesize(directory)
        (stack,) = [stack for stack in deployment.read_assembly(assembly) if stack.name == sale.stack.name]
        self.access_logs.add(deployment.deploy(self.aws, stack, is_update=True), sale.api_id)

    def to_json(self) -> dict[str, object]:
        """Every address, id and stack output, for whoever drives the stage from outside."""
        return {
            "account": ACCOUNT,
            "region": REGION,
            "aws_endpoint_url": self.aws.url,
            "control_url": self.server.control_url,
            "log": str(self.aws.log),
            "sales": [
                {
                    "stack": sale.stack.name,
                    "agreement_kind": sale.terms.agreement_kind.value,
                    "metering": sale.terms.metering.value,
                    "product_code": sale.terms.product_code,
                    "fulfillment_url": self.gateway.url(sale.fulfillment_url),
                    "api_url": self.gateway.url(sale.settings.api_url),
                    "api_id": sale.api_id,
                    "usage_plan_id": sale.settings.usage_plan_id,
                    "reconciliation_function": sale.reconciliation,
                }
                for sale in self.sales
            ],
            "outputs": {stack.name: dict(stack.outputs) for stack in self.stacks},
        }

    def _set_up(self) -> None:
        enter = self._exit.enter_context
        with self._phase("synthesizing"):
            self._assembly = deployment.synthesize(self._directory)
        with self._phase("starting the local AWS and Marketplace"):
            self.server = enter(
                MarketplaceServer(self.market, authorize=self._may, role_of=lambda key: self._roles.get(key, ""))
            )
            self.aws = enter(LocalAws(environment=self.server.environment))
            self.gateway = enter(Gateway(self.aws.port, clock=self.clock.now))
            self.access_logs = enter(AccessLogs(self.aws, clock=self.clock.now))
            self._delivery = EventDelivery(self.aws, to_stream=self.access_logs.record)
            self.gateway.listeners.append(self.access_logs.see)
            # Before it reaches S3 that time has passed: the files were there before.
            self.clock.on_move(self.access_logs.tick)
            self.clock.on_move(self._set_functions_clock)
        for stack in deployment.read_assembly(self._assembly):
            with self._phase(f"deploying {stack.name} ({len(stack.template['Resources'])} resources)"):
                self.stacks.append(deployment.deploy(self.aws, stack))
                self.sales += self._sales_of(self.stacks[-1])
        for kind, why in self.left_out.items():
            self._say(f"left out: {kind}: {why}")
        if not self.sales:
            raise CouldNotRehearse(
                "MP-REHEARSE-20", "the app, got no SellableApi in its stacks; expected at least one; add one"
            )

    @contextmanager
    def _phase(self, what: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.phases[what] = time.monotonic() - begun
        self._say(f"{self.phases[what]:6.2f} s  {what}")

    def _may(self, access_key_id: str, action: str) -> bool:
        """Whether the deployed role of the function that calls Marketplace allows the action."""
        role = self._roles.get(access_key_id)
        if role is None:
            return access_key_id == ACCOUNT
        answer = self.aws.client("iam").simulate_principal_policy(PolicySourceArn=role, ActionNames=[action])
        return all(result["EvalDecision"] == "allowed" for result in answer["EvaluationResults"])

    def _set_functions_clock(self) -> None:
        self.aws.set_ahead((self.clock.now() - datetime.now(UTC)).total_seconds())

    def _sales_of(self, stack: DeployedStack) -> Iterator[Sale]:
        functions = self.aws.client("lambda")
        deployed = [
            functions.get_function_configuration(FunctionName=name)
            for name in stack.of_type("AWS::Lambda::Function").values()
        ]
        self._roles |= {function_key_id(f["FunctionArn"], f["Role"]): f["Role"] for f in deployed}
        for function in deployed:
            if function["Handler"] != _ONBOARDING:
                continue
            settings = _settings(OnboardingSettings, function, stack)
            yield self._sale(stack, settings, function["FunctionArn"], deployed)

    def _sale(
        self,
        stack: DeployedStack,
        settings: OnboardingSettings,
        onboarding_arn: str,
        deployed: list[Mapping[str, object]],
    ) -> Sale:
        url = self._fulfillment_url(stack, onboarding_arn)
        pipeline = next(
            (
                Pipeline(function=str(function["FunctionName"]), settings=_settings(MeterSettings, function, stack))
                for function in deployed
                if function["Handler"] == _METER and _variables(function).get("FACTS_TABLE") == settings.facts_table
            ),
            None,
        )
        listing = self.market.add_product(
            _product(settings.terms, pipeline), title=settings.seller_name, fulfillment_url=self.gateway.url(url)
        )
        api_id = settings.api_url.removeprefix("https://").split(".", 1)[0]
        meter = NativeMeter(
            self.aws,
            market=self.market,
            account=ACCOUNT,
            api_id=api_id,
            usage_plan_id=settings.usage_plan_id,
            listing=listing,
        )
        self.gateway.listeners.append(meter.see)
        self.access_logs.add(stack, api_id)
        reconciliation = next(
            (
                str(function["FunctionName"])
                for function in deployed
                if function["Handler"] == _RECONCILIATION
                and _variables(function).get("FACTS_TABLE") == settings.facts_table
            ),
            "",
        )
        return Sale(
            stack=stack,
            settings=settings,
            listing=listing,
            fulfillment_url=url,
            api_id=api_id,
            reconciliation=reconciliation,
            meter=meter,
            pipeline=pipeline,
        )

    def _fulfillment_url(self, stack: DeployedStack, onboarding_arn: str) -> str:
        gateway = self.aws.client("apigateway")
        for api_id in stack.of_type("AWS::ApiGateway::RestApi").values():
            for page in gateway.get_paginator("get_resources").paginate(restApiId=api_id, embed=["methods"]):
                for item in page["items"]:
                    method = item.get("resourceMethods", {}).get("POST", {})
                    if item["path"] == _REGISTRATION_PATH and onboarding_arn in method.get("methodIntegration", {}).get(
                        "uri", ""
                    ):
                        stage = gateway.get_stages(restApiId=api_id)["item"][0]["stageName"]
                        return f"https://{api_id}.execute-api.{REGION}.amazonaws.com/{stage}{_REGISTRATION_PATH}"
        raise CouldNotRehearse(
            "MP-REHEARSE-24",
            f"the onboarding API of {stack.name}, got no POST {_REGISTRATION_PATH} for its function; "
            "expected one; synthesize with the marketplace-constructs that rehearses",
        )


def _variables(function: Mapping[str, object]) -> Mapping[str, str]:
    environment = function.get("Environment")
    return environment.get("Variables", {}) if isinstance(environment, Mapping) else {}


_S = TypeVar("_S", OnboardingSettings, MeterSettings)


def _settings(kind: type[_S], function: Mapping[str, object], stack: DeployedStack) -> _S:
    try:
        return kind.from_environment(_variables(function))
    except SettingsError as error:
        raise CouldNotRehearse(
            "MP-REHEARSE-23",
            f"the function {function['FunctionName']} of {stack.name}, got {error}; expected settings of this "
            "version; synthesize with the marketplace-constructs that rehearses",
        ) from None


def _product(terms: ProductTerms, pipeline: Pipeline | None) -> Product:
    """A product for the listing.

    A deployed meter knows what its dimensions are called, and nobody of which category they are.
    """
    if pipeline is not None and not terms.is_native:
        dimensions = [Dimension(key=key, category=Category.UNITS) for key in pipeline.settings.dimensions.split(",")]
    else:
        keys = [NATIVE_DIMENSION if terms.is_native else "calls"] if terms.pricing_model.has_usage else []
        dimensions = [Dimension.requests(key) for key in keys]
    if terms.pricing_model.has_contract:
        dimensions.append(Dimension(key="seats", category=Category.USERS, type=DimensionType.ENTITLED))
    return Product(
        product_code=terms.product_code,
        agreement_kind=terms.agreement_kind,
        pricing_model=terms.pricing_model,
        metering=terms.metering,
        dimensions=tuple(dimensions),
        metering_region=terms.metering_region,
    )
