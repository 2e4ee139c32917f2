// Asks over server-sent events with the graphql-sse client. Prints every answer as a JSON line.
import { createClient } from "graphql-sse";

const [url, token, ...documents] = process.argv.slice(2);

const client = createClient({
  url,
  headers: token ? { authorization: `Bearer ${token}` } : {},
  retryAttempts: 0,
});

for (const query of documents) {
  try {
    for await (const answer of client.iterate({ query })) {
      console.log(JSON.stringify(answer));
    }
  } catch (error) {
    console.log(JSON.stringify({ thrown: { message: error.message } }));
  }
}
client.dispose();
