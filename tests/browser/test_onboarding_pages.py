"""The onboarding pages in a real browser: by keyboard alone, narrow and wide, light and dark, under axe."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_core_python import selenium as axe
from onboarding_server import OnboardingServer
from onboarding_world import EMAIL, PLAN
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.support.ui import WebDriverWait

from marketplace_constructs.domain.agreements import FactKind
from marketplace_constructs.runtime.agreements.service import TryAgain
from marketplace_constructs.runtime.onboarding import handler

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.enable_socket,
    pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="could not check: no chromium"),
]

VIEWS = {
    f"{name}-{theme}": (width, height, theme)
    for name, width, height in (("phone", 360, 740), ("desktop", 1280, 900))
    for theme in ("light", "dark")
}
# The waiting page reloads itself. WCAG 2.2.1 allows that where the reader can turn it off, which the page
# offers; axe cannot see that, so the page is also checked with it turned off, under every rule.
RELOADS = "{rules: {'meta-refresh': {enabled: false}}}"


class Page:
    """A browser window, used as somebody without a mouse uses it."""

    def __init__(self, driver: object, server: OnboardingServer, pictures: Path, view: str) -> None:
        self.driver, self.server, self._pictures, self._view = driver, server, pictures, view

    def come_from_marketplace(self) -> None:
        self.driver.get(self.server.marketplace_url)
        self.press("Set up your account")

    def press(self, name: str) -> None:
        """Tab to what bears this name, press Enter, and wait for the next page."""
        self.tab_to(name)
        # A mark on the old page: asking for an element of it while it goes away is an error of its own.
        self.driver.execute_script("window.isOld = true")
        self.type(Keys.ENTER)
        WebDriverWait(self.driver, 10, ignored_exceptions=[WebDriverException]).until(
            lambda driver: driver.execute_script("return !window.isOld && document.readyState == 'complete'")
        )

    def tab_to(self, name: str) -> None:
        """Tab until the focus is on what bears this name, and check that it can be seen there."""
        for _ in range(25):
            self.type(Keys.TAB)
            active = self.driver.switch_to.active_element
            label = active.accessible_name or active.text
            if name in label:
                outline = active.value_of_css_property("outline-style")
                assert outline not in {"none", ""}, f"the focus on {name!r} cannot be seen"
                return
        pytest.fail(f"the keyboard does not reach {name!r}")

    def type(self, text: str) -> None:
        ActionChains(self.driver).send_keys(text).perform()

    @property
    def focused(self) -> str:
        return self.driver.switch_to.active_element.get_attribute("id")

    @property
    def text(self) -> str:
        return self.driver.find_element("tag name", "body").text

    def check(self, name: str, options: str = "{}") -> None:
        """Take a picture, run axe, and see that nothing overflows and nothing was blocked."""
        width = self.driver.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        height = self.driver.execute_script("return document.documentElement.scrollHeight")
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {
                "width": VIEWS[self._view][0],
                "height": max(height, VIEWS[self._view][1]),
                "deviceScaleFactor": 1,
                "mobile": False,
            },
        )
        self.driver.save_screenshot(str(self._pictures / f"{self._view}-{name}.png"))
        violations = axe.Axe().run(self.driver, options=options)["violations"]
        found = [(v["id"], [n["html"][:120] for n in v["nodes"]]) for v in violations]
        assert not found
        assert width[0] <= width[1], f"{name} scrolls sideways: {width}"
        blocked = [
            entry["message"] for entry in self.driver.get_log("browser") if "Content Security" in entry["message"]
        ]
        assert not blocked


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(params=VIEWS)
def page(request: pytest.FixtureRequest, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    # A page that reloads while it is examined would lose the focus.
    monkeypatch.setattr(handler, "WAITS_SECONDS", 600)
    width, height, theme = VIEWS[request.param]
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", f"--window-size={width},{height}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    server = OnboardingServer()
    try:
        driver.set_page_load_timeout(20)
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        )
        yield Page(driver, server, pictures, request.param)
    finally:
        driver.quit()
        server.close()


def test_buyer_gets_and_replaces_a_key_by_keyboard_alone(page: Page) -> None:
    world = page.server.world
    page.come_from_marketplace()
    page.check("1-contact")
    page.tab_to("Email address")
    page.type("nobody")
    page.press("Continue")
    page.check("2-contact-refused")
    page.tab_to("Enter an email address")
    page.type(Keys.ENTER)
    assert page.focused == "email"
    page.type(Keys.BACKSPACE * len("nobody") + EMAIL)
    page.press("Continue")
    assert "Waiting for AWS" in page.text
    page.check("3-waiting", RELOADS)
    page.press("Stop checking automatically")
    page.check("4-waiting-quietly")
    world.happens(FactKind.ACTIVATED)
    page.press("Check now")
    page.check("5-key-ready")
    page.press("Show my API key")
    key = page.driver.find_element("css selector", ".secret code").text
    assert world.api_keys.opens(PLAN, key)
    page.check("6-key")
    page.press("I have copied my key")
    assert key not in page.text
    page.check("7-active")
    page.tab_to("24 hours")
    page.type(Keys.ARROW_DOWN * 2)
    page.press("Replace my key")
    new = page.driver.find_element("css selector", ".secret code").text
    assert world.api_keys.opens(PLAN, new)
    assert not world.api_keys.opens(PLAN, key)
    page.check("8-new-key")
    world.happens(FactKind.DEPROVISIONED)
    page.press("I have copied my key")
    page.check("9-ended")


def test_waiting_page_offers_the_key_by_itself(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handler, "WAITS_SECONDS", 1)
    page.come_from_marketplace()
    page.tab_to("Email address")
    page.type(EMAIL)
    page.press("Continue")
    page.server.world.happens(FactKind.ACTIVATED)
    wait = WebDriverWait(page.driver, 15, ignored_exceptions=[WebDriverException])
    wait.until(lambda _: "Your API key is ready" in page.text)


def test_every_other_page_is_as_good(page: Page) -> None:
    world = page.server.world
    page.driver.get(page.server.url)
    page.check("a-home")
    page.driver.get(f"{page.server.url}/agreement")
    page.check("b-no-session")
    page.driver.get(f"{page.server.url}/nothing")
    page.check("c-not-found")
    token = world.token()
    world.happens(FactKind.ACTIVATED)
    world.agreements.register(token)
    world.clock.advance(seconds=1)  # no two requests come at the same moment
    world.token = lambda: token
    page.come_from_marketplace()
    assert "shows the status only" in page.text
    page.check("d-status-only")
    world.marketplace.expired.add(token)
    page.come_from_marketplace()
    page.check("e-expired")
    del world.token
    page.come_from_marketplace()
    page.tab_to("Email address")
    page.type(EMAIL)
    page.press("Continue")
    world.app = world.make_app(agreements=Busy(world.agreements))
    page.press("Show my API key")
    assert "Nothing is lost" in page.text
    page.check("f-busy")
    world.app = world.make_app()
    page.press("Try again")
    assert page.driver.find_elements("css selector", ".secret code")
    world.marketplace.customers[token := world.token()] = ValueError("no answer of Marketplace")
    world.token = lambda: token
    page.come_from_marketplace()
    page.check("g-fault")


class Busy:
    """The real service, whose AWS makes no keys just now."""

    def __init__(self, service: object) -> None:
        self.agreement = service.agreement

    def issue_key(self, *_: object) -> None:
        raise TryAgain
