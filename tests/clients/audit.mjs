// The official GraphQL over HTTP audits. Prints one JSON object per audit.
import { serverAudits } from "graphql-http";

const [url] = process.argv.slice(2);

for (const audit of serverAudits({ url, fetchFn: fetch })) {
  const result = await audit.fn();
  const { id, name, status, reason } = { ...audit, ...result };
  console.log(JSON.stringify({ id, name, status, reason: reason ?? null }));
}
