"""Money moved between three banks, with crashes and duplicates on the way, and the proof that none was made or lost.

    python -m examples.transfer.demo                                   # embedded broker, SQLite
    python -m examples.transfer.demo --bootstrap localhost:9092 --database-server postgresql+psycopg://localhost/postgres

Exit code 0 only if every transfer ended as it had to, and the banks' books agree.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from examples.driver.options import parse
from examples.driver.play import Cast, Service
from examples.driver.show import Proof, show
from examples.transfer.check import check, check_outcomes
from examples.transfer.contracts import BANKS
from examples.transfer.sagas import transfer_saga
from examples.transfer.workload import MOST_TRANSFERS, transfers

#: What `check` and `check_outcomes` have looked at, when they find nothing.
PROVED = (
    "the sum of all balances is what it was before the first transfer, and no hold is open",
    "payees got what the payer let go of, or nothing at all",
    "nothing was held, deposited, taken back or released twice",
    "every transfer ended as it had to",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; the process's exit code."""
    options = parse(
        arguments,
        prog="examples.transfer.demo",
        about="Transfers between three banks: hold, deposit, settle; with crashes and duplicates on the way.",
        what="transfers",
        default=1000,
        most=MOST_TRANSFERS,
    )
    wanted = transfers(options.count, options.seed)
    cast = Cast(
        title="transfers",
        coordinator="transfer",
        sagas="examples.transfer.sagas",
        definition=transfer_saga,
        inputs={transfer.id: transfer for transfer in wanted},
        services=[Service(name=bank, module="examples.transfer.bank", environment={"BANK": bank}) for bank in BANKS],
        victims=BANKS,
    )

    def prove(databases: Mapping[str, str], statuses: Mapping[str, str]) -> Proof:
        return Proof(proved=PROVED, violations=check(databases) + check_outcomes(wanted, statuses))

    return show(cast, options, prove)


if __name__ == "__main__":
    sys.exit(main())
