# SPDX-License-Identifier: Apache-2.0
"""The gate: nothing opens a person's sequence data without a `Permit`, and only `authorize` makes one.

In: who the data are about, what for, and who says that may be. Out: a `Permit`, recorded in the audit log.
Next: `megabolt.formats` asks the permit to record each file before it opens it.

This version knows one basis: data that are openly consented (reference samples, simulated reads), declared
by a named person. Whatever is not declared is refused. Each process asks again: permits do not travel between
processes, cannot be copied, and cannot be made from another permit.
"""

from __future__ import annotations

import os
import pwd
import secrets
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn, final
from weakref import WeakKeyDictionary

from megabolt.errors import ConsentRefused
from megabolt.privacy import audit

#: Answers that name nobody and no reason.
_NOT_A_DECLARATION = frozenset(
    {"yes", "y", "true", "t", "1", "ok", "x", "no", "n", "false", "f", "0", "none", "na", "n/a", "null", "."}
)

WHAT_TO_TYPE = (
    'If these data are openly consented, say who says so and why: --open-data "who says so and why" '
    '(for example --open-data "J. Smith: HG002 of Genome in a Bottle, open consent"), '
    "or write the same into the column open_data of the sample sheet."
)


@final
@dataclass(frozen=True, eq=False, init=False)
class Permit:
    """Leave to open the data of one subject for one purpose in this process; made by `authorize` only.

    Attributes
    ----------
    subject
        The label the data are kept under; the only name of the person that is logged.
    purpose
        What the data may be used for in this run.
    basis
        Why that is lawful: "open data: " and the declaration.
    declared_by
        The account that made the declaration.
    permit_id
        Joins all records of this permit in the audit log.
    issued
        ISO 8601, UTC.
    """

    subject: str
    purpose: str
    basis: str
    declared_by: str
    permit_id: str
    issued: str

    def __new__(cls, *args: object, **kwargs: object) -> Permit:
        _forged()

    def __init_subclass__(cls) -> None:
        _forged()

    def __reduce_ex__(self, protocol: object) -> NoReturn:  # copy, deepcopy and pickle come here
        _forged()

    def __setstate__(self, state: object) -> NoReturn:
        _forged()

    def record(self, action: str, path: Path | str, **facts: Any) -> None:
        """Write to the audit log that a file is about to be opened; it is on disk when this returns.

        Parameters
        ----------
        action
            "open-read", "open-write", ...
        path
            The file; logged as an absolute path.
        facts
            More to remember; values that JSON can hold, never genetic data.

        Raises
        ------
        ConsentRefused
            The log cannot be written, or this permit was not made by `authorize`.
        """
        log = _log_of(self)
        event = {
            "action": action,
            "permit": self.permit_id,
            "subject": self.subject,
            "path": os.path.abspath(path),
            "facts": facts,
        }
        audit.append(log, event)


#: Permits that were issued, with their values and their log: a forged or altered one is not in here.
_issued: WeakKeyDictionary[Permit, tuple[tuple[str, ...], Path]] = WeakKeyDictionary()


#: Purposes that permits are asked for.
ALIGNMENT = "alignment"
GERMLINE_CALLING = "germline variant calling"
JOINT_CALLING = "joint variant calling"


def check(subject: str, purpose: str, *, open_data: str | None, audit_log: Path | None = None) -> None:
    """Raise what `authorize` would raise for want of a declaration, and write the refusal down; permits nothing."""
    refusal = _reason_to_refuse(subject, purpose, open_data)
    if refusal:
        audit.append(
            _log_or_default(audit_log),
            {"action": "refuse", "subject": subject, "purpose": purpose, "why": refusal, "account": _account()},
        )
        raise ConsentRefused(f"{refusal} Nothing was opened.", WHAT_TO_TYPE)


def authorize(subject: str, purpose: str, *, open_data: str | None, audit_log: Path | None = None) -> Permit:
    """Decide whether a subject's data may be used for a purpose, and write the decision down.

    Parameters
    ----------
    subject
        The label the data are kept under.
    purpose
        What they are used for.
    open_data
        The declaration that they are openly consented: who says so and why. None if nobody declared it.
    audit_log
        Where decisions and accesses are recorded; `audit.default_log()` if None.

    Returns
    -------
    A permit for this process.

    Raises
    ------
    ConsentRefused
        No declaration, an empty one, or the audit log cannot be written. The message says what to type.
    """
    check(subject, purpose, open_data=open_data, audit_log=audit_log)
    log, account = _log_or_default(audit_log), _account()
    permit: Permit = object.__new__(Permit)
    values = (
        subject,
        purpose,
        f"open data: {(open_data or '').strip()}",
        account,
        secrets.token_hex(16),
        audit.now(),
    )
    for field, value in zip(fields(Permit), values):
        object.__setattr__(permit, field.name, value)
    audit.append(
        log,
        {
            "action": "permit",
            "permit": permit.permit_id,
            "subject": subject,
            "purpose": purpose,
            "basis": permit.basis,
            "account": account,
        },
    )
    _issued[permit] = (values, log)
    return permit


def _reason_to_refuse(subject: str, purpose: str, open_data: str | None) -> str:
    """Empty if the data may be used."""
    if not subject.strip() or not purpose.strip():
        return "A subject and a purpose must be named."
    if open_data is None:
        return f"No consent is recorded for subject {subject}."
    if not any(letter.isalpha() for letter in open_data) or open_data.strip().lower() in _NOT_A_DECLARATION:
        return f"The open-data declaration for subject {subject} names nobody and no reason."
    return ""


def _log_of(permit: Permit) -> Path:
    issued = _issued.get(permit)
    if issued is None:
        _forged()
    values, log = issued
    if values != tuple(getattr(permit, field.name) for field in fields(Permit)):
        _forged()
    return log


def _forged() -> NoReturn:
    raise ConsentRefused(
        "a permit can only be made by megabolt.privacy.consent.authorize(), once for each process",
        "Call authorize() with the subject, the purpose and the declaration.",
    )


def _log_or_default(audit_log: Path | None) -> Path:
    return audit_log if audit_log is not None else audit.default_log()


def _account() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # containers run under numbers that no passwd file knows
        return f"uid {os.getuid()}"
