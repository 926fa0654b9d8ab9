"""Where alerts go: webhooks, Slack and whatever takes its messages, and Prometheus' Alertmanager.

One request tells of the alerts about one subject, or about many that have some at once. An answer other than 2xx, or none in
time, is `Unavailable`, and the caller tries again: a receiver knows a repeated request
by its `Idempotency-Key`.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from trimtab_core.naming import listed
from trimtab_runtime.clock import Clock, iso
from trimtab_runtime.errors import Unavailable

from trimtab_monitoring.errors import BadSinks, MessageRefused
from trimtab_monitoring.usecases.alerting import RANKS, Sink
from trimtab_monitoring.usecases.entities import Alert

_TIMEOUT: Final = aiohttp.ClientTimeout(total=10.0)
_YEAR_MS: Final = 365 * 86_400_000
_REFUSALS: Final = (400, 413, 422)
_LINES: Final = 50
"""Lines of a message of Slack, which takes 40,000 characters."""
_NAMED: Final = 20
"""Names in a line of a message about many; the rest are counted."""
SIGNATURE: Final = "X-Trimtab-Signature"


def sinks(setting: str, secret: str, session: aiohttp.ClientSession, clock: Clock) -> dict[str, Sink]:
    """Return the sinks of a setting such as `ops=slack:https://… pager=alertmanager:http://…` by name.

    Raises:
        BadSinks: it is not of that form.
    """
    found: dict[str, Sink] = {}
    for place, part in enumerate(setting.split(), start=1):
        name, _, rest = part.partition("=")
        kind, _, url = rest.partition(":")
        if not name or urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise BadSinks(place)
        post = Post(session, name)
        match kind:
            case "webhook":
                found[name] = Webhook(post, url, secret, clock)
            case "slack":
                found[name] = Slack(post, url)
            case "alertmanager":
                found[name] = Alertmanager(post, url)
            case _:
                raise BadSinks(place)
    return found


@dataclass(frozen=True, slots=True)
class Post:
    """Posts JSON."""

    session: aiohttp.ClientSession
    sink: str

    async def __call__(self, url: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Post `body`.

        Raises:
            MessageRefused: the answer is that there is something wrong with this body.
            Unavailable: it is not 2xx either, or there is none.
        """
        sent = {"Content-Type": "application/json", **headers}
        try:
            async with self.session.post(url, data=body, headers=sent, timeout=_TIMEOUT) as answer:
                if answer.status // 100 == 2:
                    return
                said = (await answer.text(errors="replace"))[:200]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # The address is a secret with some receivers, and an error may tell it.
            raise Unavailable(f"sink {self.sink!r} does not answer: {type(error).__name__}") from error
        refused = MessageRefused if answer.status in _REFUSALS else Unavailable
        raise refused(f"sink {self.sink!r} answers {answer.status}: {said}")


@dataclass(frozen=True, slots=True)
class Webhook:
    """Any HTTP receiver: the alerts as JSON, signed where there is a secret.

    The signature is `t=SECONDS,v1=HEX`: the HMAC-SHA256, under the secret, of the seconds, a full stop and the body.
    """

    post: Post
    url: str
    secret: str
    clock: Clock

    async def send(self, alerts: Sequence[Alert]) -> None:
        """Tell of alerts; the `subject` of the message is empty if they are about several."""
        subjects = {alert.subject for alert in alerts}
        subject = subjects.pop() if len(subjects) == 1 else ""
        body = json.dumps({"subject": subject, "alerts": [_plain(alert) for alert in alerts]}).encode()
        headers = {"Idempotency-Key": _key(alerts)}
        if self.secret:
            seconds = str(self.clock.now_ms() // 1000)
            signed = hmac.new(
                self.secret.encode(), seconds.encode() + b"." + body, hashlib.sha256
            ).hexdigest()
            headers[SIGNATURE] = f"t={seconds},v1={signed}"
        await self.post(self.url, body, headers)


@dataclass(frozen=True, slots=True)
class Slack:
    """An incoming webhook of Slack, or of what takes the same messages (Mattermost, Rocket.Chat, Discord's /slack)."""

    post: Post
    url: str

    async def send(self, alerts: Sequence[Alert]) -> None:
        """Tell of alerts about one subject sentence by sentence, and of several in a line for each kind."""
        subjects = list(dict.fromkeys(alert.subject for alert in alerts))
        if len(subjects) == 1:
            lines = [
                f"*{_escaped(subjects[0])}*",
                *(f"{_sign(it)}: {_escaped(it.sentence)}" for it in alerts[:_LINES]),
            ]
            if len(alerts) > _LINES:
                lines.append(f"and {len(alerts) - _LINES} more, as `trimtab alert list {subjects[0]}` tells")
        else:
            lines = [
                f"*{len(subjects)} have something to look at*, as `trimtab alert list` tells",
                *_counted(alerts),
            ]
        await self.post(
            self.url, json.dumps({"text": "\n".join(lines)}).encode(), {"Idempotency-Key": _key(alerts)}
        )


@dataclass(frozen=True, slots=True)
class Alertmanager:
    """Prometheus' Alertmanager, by its API v2; it groups and routes by the labels."""

    post: Post
    url: str

    async def send(self, alerts: Sequence[Alert]) -> None:
        """Tell of alerts."""
        body = json.dumps([_labelled(alert) for alert in alerts]).encode()
        await self.post(f"{self.url.rstrip('/')}/api/v2/alerts", body, {"Idempotency-Key": _key(alerts)})


def _plain(alert: Alert) -> dict[str, Any]:
    return {
        "id": alert.id,
        "occasion": alert.place,
        "subject": alert.subject,
        "severity": alert.severity,
        "kind": alert.kind,
        "status": "resolved" if alert.resolved else "firing",
        "sentence": alert.sentence,
        "at": iso(alert.at_ms),
    }


def _labelled(alert: Alert) -> dict[str, Any]:
    """Return an alert as Alertmanager takes it.

    It forgets what is not repeated within minutes unless it has an end: one that will be resolved here has a far one.
    """
    labels = {
        "alertname": alert.kind,
        "subject": alert.subject,
        "severity": alert.severity,
        "occasion": alert.place,
    }
    found: dict[str, Any] = {"labels": labels, "annotations": {"summary": alert.sentence}}
    if alert.resolved:
        return found | {"endsAt": iso(alert.at_ms)}
    ends = {"endsAt": iso(alert.at_ms + _YEAR_MS)} if alert.occasion else {}
    return found | {"startsAt": iso(alert.at_ms)} | ends


def _sign(alert: Alert) -> str:
    sign = ":white_check_mark: resolved" if alert.resolved else f":warning: {alert.severity}"
    return f"{sign}, {_escaped(alert.kind)}"


def _counted(alerts: Sequence[Alert]) -> list[str]:
    """Return a line for each severity and kind, the gravest first and what is over last, with the names of those that have one."""
    named: dict[str, dict[str, None]] = {}
    for alert in sorted(alerts, key=lambda it: (it.resolved, -RANKS[it.severity], it.kind)):
        named.setdefault(_sign(alert), {})[_escaped(alert.subject)] = None
    return [f"{sign}, of {len(names)}: {_some([*names])}" for sign, names in named.items()]


def _some(names: Sequence[str]) -> str:
    more = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED else []
    return listed([*names[:_NAMED], *more])


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _key(alerts: Sequence[Alert]) -> str:
    return hashlib.sha256("\0".join(alert.id for alert in alerts).encode()).hexdigest()
