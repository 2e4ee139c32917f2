// Apollo Server as a competent person writes it: DataLoaders that fetch a level in one statement,
// prepared statements by postgres.js, parsed documents kept, no plugin that nobody asked for.
// Its types have only what the workloads ask for, and the owner stands in every statement.
import { ApolloServer } from "@apollo/server";
import { ApolloServerPluginCacheControlDisabled } from "@apollo/server/plugin/disabled";
import { startStandaloneServer } from "@apollo/server/standalone";
import DataLoader from "dataloader";
import { GraphQLScalarType } from "graphql";
import postgres from "postgres";

const { PGHOST, PGUSER, PGDATABASE, PORT } = process.env;

const sql = postgres({
  path: `${PGHOST}/.s.PGSQL.5432`,
  user: PGUSER,
  database: PGDATABASE,
  max: 10,
  transform: postgres.camel,
});

const typeDefs = `#graphql
  scalar DateTime

  enum Role { system user assistant tool }
  enum TaskStatus { pending in_progress blocked done failed cancelled }

  type Conversation {
    id: ID!
    title: String
    version: Int!
    createdAt: DateTime!
    updatedAt: DateTime!
    lastMessageAt: DateTime!
    messages(first: Int = 20, after: String): [Message!]!
  }

  type Message {
    id: ID!
    role: Role!
    content: String!
    depth: Int!
    createdAt: DateTime!
  }

  type Project {
    id: ID!
    name: String!
    createdAt: DateTime!
    tasks(first: Int = 20, after: String): [Task!]!
  }

  type Task {
    id: ID!
    number: Int!
    title: String!
    status: TaskStatus!
    priority: Int!
    createdAt: DateTime!
    subtasks(first: Int = 20): [Task!]!
  }

  type Query {
    conversation(id: ID!): Conversation
    conversations(first: Int = 20): [Conversation!]!
    project(id: ID!): Project
    projects(first: Int = 20): [Project!]!
  }

  input CreateConversationInput { title: String }

  type Mutation {
    createConversation(input: CreateConversationInput!): Conversation!
  }
`;

const conversation = sql`id, title, version, created_at, updated_at, last_message_at`;
const message = sql`id, role, content, depth, created_at`;
const project = sql`id, name, created_at`;
const task = sql`id, number, title, status, priority, created_at`;

// A page for each of many parents, in one statement; the cursor of a page is "place:id".
function pages(owner, parent, read) {
  const loaders = new Map();
  return (id, { first, after }) => {
    const shape = `${first} ${after ?? ""}`;
    if (!loaders.has(shape)) {
      const [place, last] = after?.split(":") ?? [-1, "00000000-0000-0000-0000-000000000000"];
      loaders.set(
        shape,
        new DataLoader(async (ids) => {
          const found = new Map(ids.map((key) => [key, []]));
          for (const row of await read(owner, ids, first, Number(place), last)) {
            found.get(row[parent]).push(row);
          }
          return ids.map((key) => found.get(key));
        }),
      );
    }
    return loaders.get(shape).load(id);
  };
}

const messagesOf = (owner, ids, first, place, last) => sql`
  select ids.id as "conversationId", page.* from unnest(${ids}::uuid[]) as ids(id)
  cross join lateral (
    select ${message} from messages
    where owner_id = ${owner} and conversation_id = ids.id and deleted_at is null
      and (depth, id) > (${place}, ${last})
    order by depth, id limit ${first}
  ) page order by page.depth, page.id`;

const tasksOf = (owner, ids, first, place, last) => sql`
  select ids.id as "projectId", page.* from unnest(${ids}::uuid[]) as ids(id)
  cross join lateral (
    select ${task} from tasks
    where owner_id = ${owner} and project_id = ids.id and deleted_at is null
      and (number, id) > (${place}, ${last})
    order by number, id limit ${first}
  ) page order by page.number, page.id`;

const subtasksOf = (owner, ids, first) => sql`
  select ids.id as "parentId", page.* from unnest(${ids}::uuid[]) as ids(id)
  cross join lateral (
    select ${task} from tasks
    where owner_id = ${owner} and parent_id = ids.id and deleted_at is null
    order by number, id limit ${first}
  ) page order by page.number, page.id`;

const resolvers = {
  DateTime: new GraphQLScalarType({
    name: "DateTime",
    serialize: (value) => value.toISOString(),
  }),
  Conversation: {
    messages: ({ id }, page, { messages }) => messages(id, page),
  },
  Project: {
    tasks: ({ id }, page, { tasks }) => tasks(id, page),
  },
  Task: {
    subtasks: ({ id }, page, { subtasks }) => subtasks(id, page),
  },
  Query: {
    conversation: async (_, { id }, { owner }) => {
      const [row] = await sql`
        select ${conversation} from conversations
        where owner_id = ${owner} and id = ${id} and deleted_at is null`;
      return row;
    },
    conversations: (_, { first }, { owner }) => sql`
      select ${conversation} from conversations
      where owner_id = ${owner} and deleted_at is null
      order by last_message_at desc, id desc limit ${first}`,
    project: async (_, { id }, { owner }) => {
      const [row] = await sql`
        select ${project} from projects
        where owner_id = ${owner} and id = ${id} and deleted_at is null`;
      return row;
    },
    projects: (_, { first }, { owner }) => sql`
      select ${project} from projects
      where owner_id = ${owner} and deleted_at is null
      order by created_at desc, id desc limit ${first}`,
  },
  Mutation: {
    createConversation: async (_, { input }, { owner }) => {
      const [row] = await sql`
        insert into conversations (owner_id, title)
        values (${owner}, ${input.title ?? null}) returning ${conversation}`;
      return row;
    },
  },
};

const server = new ApolloServer({
  typeDefs,
  resolvers,
  introspection: false,
  plugins: [ApolloServerPluginCacheControlDisabled()],
});

await startStandaloneServer(server, {
  listen: { host: "127.0.0.1", port: Number(PORT) },
  context: async ({ req }) => {
    const owner = req.headers["x-owner"];
    return {
      owner,
      messages: pages(owner, "conversationId", messagesOf),
      tasks: pages(owner, "projectId", tasksOf),
      subtasks: pages(owner, "parentId", subtasksOf),
    };
  },
});
