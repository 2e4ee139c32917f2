"""Everything that a person has, to take with them."""

import strawberry
from strawberry import auto

from db.models import accounts
from db.refusals import Denied
from db.repositories import exports
from schema import ids
from schema.context import Info
from schema.derived import derived
from schema.inputs import OnceInput
from schema.mirror import mirror
from schema.mutation import Payload, mutation, payload, shown
from schema.node import Node
from schema.pages import Connection
from schema.relations import root, root_row


@mirror(
    accounts.AccountExport,
    private={"lease_expires_at"},
    default_order=("-created_at",),
    access="account",
)
class AccountExport(Node):
    status: auto
    attempts: auto
    rows: auto
    bytes: auto
    created_at: auto
    taken_at: auto
    expires_at: auto

    path: str = derived(
        lambda identifier: f"/exports/{ids.encode('account_export', identifier)}",
        "id",
        annotation=str,
        description=(
            "Where on this server its file is, once it is complete: JSON Lines, as gzip. It is"
            " asked for with GET and the same bearer token; `Range` goes on where it broke."
        ),
    )


@strawberry.input(description="Export the account.")
class ExportAccountInput(OnceInput):
    """Nothing but what every mutation takes."""


@payload
class AccountExportPayload(Payload):
    """The export."""

    account_export: AccountExport | None = strawberry.field(
        default=None, description="The export as it is now."
    )


class ExportsQuery:
    account_export: AccountExport = root_row(
        accounts.AccountExport, description="The export with this id."
    )
    account_exports: Connection[AccountExport] = root(
        accounts.AccountExport, description="The caller's exports, newest first."
    )


class ExportsMutation:
    @mutation(
        description=(
            "Begin to write down everything that the caller has, as of one moment. While one is"
            " being written, it is that one; of too many finished ones the oldest expires. An API"
            " key needs the scopes account and read."
        ),
        access="account",
    )
    async def export_account(self, info: Info, input: ExportAccountInput) -> AccountExportPayload:
        if not info.context.require("account").may("read"):
            raise Denied("This key does not have the scope read.")
        export = await exports.request(info.context.session)
        return AccountExportPayload(account_export=shown(accounts.AccountExport, [export])[0])
