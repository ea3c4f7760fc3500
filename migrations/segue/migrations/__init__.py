"""The schema of the coordinator's database, as Alembic migrations that come with the package.

Files are named `{NNNN}_{pre|post}_{what}.py`: `pre` runs before the new code is deployed and lets the old code run on;
`post` runs once no old code is left. The revision on record is in the table `segue_version`, beside a user's own.
"""

from segue.migrations.runner import check, current, head, sql, upgrade

__all__ = ["check", "current", "head", "sql", "upgrade"]
