// Starts GraphiQL: requests over fetch, subscriptions over graphql-transport-ws.
"use strict";

const config = JSON.parse(document.getElementById("config").textContent);
const TOKEN_KEY = "engram:development-token";

// Tabs live in the browser's storage, with the token of the day they were made. After a restart
// with another database that token is unknown, so the new one takes its place.
const oldToken = localStorage.getItem(TOKEN_KEY);
if (config.token && oldToken && oldToken !== config.token) {
  for (const key of Object.keys(localStorage)) {
    if (key.startsWith("graphiql:")) {
      localStorage.setItem(key, localStorage.getItem(key).replaceAll(oldToken, config.token));
    }
  }
}
if (config.token) {
  localStorage.setItem(TOKEN_KEY, config.token);
}

const headers = JSON.stringify(
  { Authorization: config.token ? `Bearer ${config.token}` : "Bearer …" },
  null,
  2,
);

let socket = null;
let socketToken = null;

// One socket for all subscriptions of one token.
function socketFor(token) {
  if (socket === null || socketToken !== token) {
    if (socket !== null) {
      socket.dispose();
    }
    const address = new URL(config.url, location.href);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    socketToken = token;
    socket = graphqlWs.createClient({
      url: address.href,
      lazy: true,
      connectionParams: token ? { authorization: token } : {},
    });
  }
  return socket;
}

function authorization(given) {
  const found = Object.entries(given).find(([name]) => name.toLowerCase() === "authorization");
  // The placeholder is not a token, and headers hold no such characters.
  return found && !String(found[1]).includes("…") ? String(found[1]) : null;
}

function isSubscription(parameters, documentAST) {
  const operations = (documentAST?.definitions ?? []).filter(
    (definition) => definition.kind === "OperationDefinition",
  );
  const chosen =
    operations.length > 1
      ? operations.find((operation) => operation.name?.value === parameters.operationName)
      : operations[0];
  return chosen?.operation === "subscription";
}

async function fetcher(parameters, options = {}) {
  const given = { ...(options.headers ?? {}) };
  const token = authorization(given);
  if (isSubscription(parameters, options.documentAST)) {
    return socketFor(token).iterate(parameters);
  }
  if (token === null) {
    for (const name of Object.keys(given)) {
      if (name.toLowerCase() === "authorization") {
        delete given[name];
      }
    }
  }
  const response = await fetch(config.url, {
    method: "POST",
    headers: {
      accept: "application/graphql-response+json, application/json;q=0.9",
      "content-type": "application/json",
      ...given,
    },
    body: JSON.stringify(parameters),
  });
  return response.json();
}

// The examples work at once: "project_…" becomes the first project that the token can see.
async function examplesWithIds() {
  const examples = config.examples.map((example) => ({ ...example, headers }));
  if (!config.token || examples.length === 0) {
    return examples;
  }
  try {
    const { data } = await fetcher({ query: config.lookup }, { headers: JSON.parse(headers) });
    const ids = Object.values(data).flatMap((connection) => connection.nodes.map(({ id }) => id));
    for (const id of ids) {
      const placeholder = `${id.slice(0, id.indexOf("_"))}_…`;
      for (const example of examples) {
        example.variables = example.variables.replaceAll(placeholder, id);
      }
    }
  } catch (error) {
    console.warn("The examples keep their placeholders.", error);
  }
  return examples;
}

async function start() {
  ReactDOM.createRoot(document.getElementById("graphiql")).render(
    React.createElement(GraphiQL, {
      fetcher,
      defaultEditorToolsVisibility: "headers",
      defaultHeaders: headers,
      defaultTabs: await examplesWithIds(),
      shouldPersistHeaders: true,
    }),
  );
}

start();
