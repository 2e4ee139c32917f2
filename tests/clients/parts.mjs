// Subscribes over multipart HTTP with Apollo Client. Prints every answer as a JSON line; a URL of
// an operation that does not end by itself is left after as many answers as `take` says.
import { ApolloClient, CombinedGraphQLErrors, CombinedProtocolErrors, gql, HttpLink, InMemoryCache } from "@apollo/client";

const [url, token, take, ...documents] = process.argv.slice(2);
const print = (value) => console.log(JSON.stringify(value));

const client = new ApolloClient({
  link: new HttpLink({ uri: url, headers: token ? { authorization: `Bearer ${token}` } : {} }),
  cache: new InMemoryCache(),
});

const kind = (error) =>
  CombinedProtocolErrors.is(error) ? "protocol" : CombinedGraphQLErrors.is(error) ? "graphql" : error.name;

for (const document of documents) {
  await new Promise((resolve) => {
    let left = Number(take);
    const subscription = client.subscribe({ query: gql(document), fetchPolicy: "no-cache" }).subscribe({
      next: ({ data, error }) => {
        print(error ? { error: kind(error), errors: error.errors } : { data });
        if (--left === 0) {
          subscription.unsubscribe();
          resolve();
        }
      },
      error: (error) => {
        print({ thrown: kind(error), message: error.message });
        resolve();
      },
      complete: () => {
        print({ complete: true });
        resolve();
      },
    });
  });
}
client.stop();
