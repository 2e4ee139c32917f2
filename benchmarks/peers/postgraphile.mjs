// PostGraphile as its documentation sets it up: the Amber preset and row-level security through
// pgSettings, the same policies and role as Engram's. With OPEN=1 it logs in as a role that
// row-level security does not bind, runs outside a transaction, and clients name the owner.
import { createServer } from "node:http";
import { postgraphile } from "postgraphile";
import { makePgService } from "postgraphile/adaptors/pg";
import { grafserv } from "postgraphile/grafserv/node";
import { PostGraphileAmberPreset } from "postgraphile/presets/amber";
import { makePgSmartTagsPlugin } from "postgraphile/utils";

const { PGHOST, PGUSER, PGDATABASE, PORT, OPEN } = process.env;

// What no whole index holds is left out of the schema by default. The lists filter by deleted_at,
// as every peer's do; the rest is indexed well enough by the keyset and parent indexes.
const Indexed = makePgSmartTagsPlugin([
  {
    kind: "attribute",
    match: ({ attname }) => ["deleted_at", "created_at", "last_message_at"].includes(attname),
    tags: { isIndexed: true },
  },
  {
    kind: "constraint",
    match: ({ conname }) => conname === "fk_tasks_parent_id",
    tags: { isIndexed: true, foreignFieldName: "subtasks" },
  },
]);

const service = makePgService({
  schemas: ["public"],
  poolConfig: { host: PGHOST, user: PGUSER, database: PGDATABASE, max: 10 },
});

const owned = ({ node }) => ({
  pgSettings: { role: "engram_app", "app.owner_id": node?.req.headers["x-owner"] },
});

const instance = postgraphile({
  extends: [PostGraphileAmberPreset],
  plugins: [Indexed],
  pgServices: [service],
  grafserv: { graphqlPath: "/graphql", graphiql: false, websockets: false, watch: false },
  grafast: { explain: false, context: OPEN ? {} : owned },
});

if (process.argv.includes("--print")) {
  const { printSchema } = await import("graphql");
  console.log(printSchema((await instance.getSchemaResult()).schema));
  process.exit();
}

const server = createServer();
await instance.createServ(grafserv).addTo(server);
server.listen(Number(PORT), "127.0.0.1");
