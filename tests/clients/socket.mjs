// Asks over graphql-transport-ws with the graphql-ws client. Prints every answer as a JSON line.
import { createClient } from "graphql-ws";
import WebSocket from "ws";

const [url, token, ...documents] = process.argv.slice(2);

const client = createClient({
  url,
  webSocketImpl: WebSocket,
  connectionParams: token ? { authorization: `Bearer ${token}` } : {},
  retryAttempts: 0,
});

for (const query of documents) {
  try {
    for await (const answer of client.iterate({ query })) {
      console.log(JSON.stringify(answer));
    }
  } catch (error) {
    const closed = error.code === undefined ? error : { code: error.code, reason: error.reason };
    console.log(JSON.stringify({ thrown: closed }));
  }
}
await client.dispose();
