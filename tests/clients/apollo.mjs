// Asks with Apollo Client, which sends hashes first. Prints what went over the wire, then answers.
import { ApolloClient, gql, HttpLink, InMemoryCache } from "@apollo/client";
import { PersistedQueryLink } from "@apollo/client/link/persisted-queries";
import { createHash } from "node:crypto";

const [url, method, ...documents] = process.argv.slice(2);
const print = (value) => console.log(JSON.stringify(value));

const hashes = new PersistedQueryLink({
  sha256: (text) => createHash("sha256").update(text).digest("hex"),
  useGETForHashedQueries: method === "GET",
});
const http = new HttpLink({
  uri: url,
  fetch: async (uri, options) => {
    const response = await fetch(uri, options);
    const text = options.body ? JSON.parse(options.body).query : new URL(uri).searchParams.get("query");
    print({ method: options.method, text: Boolean(text), status: response.status });
    return response;
  },
});
const client = new ApolloClient({ link: hashes.concat(http), cache: new InMemoryCache() });

for (const document of documents) {
  try {
    const { data } = await client.query({ query: gql(document), fetchPolicy: "no-cache" });
    print({ data });
  } catch (error) {
    print({ thrown: error.errors ?? String(error) });
  }
}
