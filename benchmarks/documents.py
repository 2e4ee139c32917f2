"""The same questions in the languages of the peers."""

from __future__ import annotations

ENGRAM = {
    "one_row": """
query ($id: ID!) {
  conversation(id: $id) { id title version createdAt updatedAt lastMessageAt }
}""",
    "lists": """
query ($first: Int!, $each: Int!) {
  projects(first: $first) {
    nodes {
      id name createdAt
      tasks(first: $each) { nodes { id number title status createdAt } }
    }
  }
}""",
    "levels": """
query ($projects: Int!, $tasks: Int!, $steps: Int!) {
  projects(first: $projects) {
    nodes {
      id name
      tasks(first: $tasks) {
        nodes { id title status subtasks(first: $steps) { nodes { id title status } } }
      }
    }
  }
}""",
    "rows": """
query ($id: ID!, $first: Int!) {
  project(id: $id) {
    id
    tasks(first: $first) { nodes { id number title status priority createdAt } }
  }
}""",
    "deep": """
query ($id: ID!, $first: Int!, $after: String!) {
  project(id: $id) {
    id
    tasks(first: $first, after: $after) { nodes { id number title status priority createdAt } }
  }
}""",
    "insert": """
mutation ($input: CreateConversationInput!) {
  createConversation(input: $input) { conversation { id title createdAt } problems { message } }
}""",
    "chat_lists": """
query ($first: Int!, $each: Int!) {
  conversations(first: $first) {
    nodes {
      id title lastMessageAt
      messages(first: $each) { nodes { id role content depth createdAt } }
    }
  }
}""",
    "chat_rows": """
query ($id: ID!, $first: Int!) {
  conversation(id: $id) {
    id
    messages(first: $first) { nodes { id role content depth createdAt } }
  }
}""",
    "chat_deep": """
query ($id: ID!, $first: Int!, $after: String!) {
  conversation(id: $id) {
    id
    messages(first: $first, after: $after) { nodes { id role content depth createdAt } }
  }
}""",
}

# Apollo and Strawberry as people write them: lists without connections.
PLAIN = {
    "one_row": ENGRAM["one_row"],
    "lists": """
query ($first: Int!, $each: Int!) {
  projects(first: $first) {
    id name createdAt
    tasks(first: $each) { id number title status createdAt }
  }
}""",
    "levels": """
query ($projects: Int!, $tasks: Int!, $steps: Int!) {
  projects(first: $projects) {
    id name
    tasks(first: $tasks) { id title status subtasks(first: $steps) { id title status } }
  }
}""",
    "rows": """
query ($id: ID!, $first: Int!) {
  project(id: $id) { id tasks(first: $first) { id number title status priority createdAt } }
}""",
    "deep": """
query ($id: ID!, $first: Int!, $after: String!) {
  project(id: $id) {
    id
    tasks(first: $first, after: $after) { id number title status priority createdAt }
  }
}""",
    "insert": """
mutation ($input: CreateConversationInput!) {
  createConversation(input: $input) { id title createdAt }
}""",
    "chat_lists": """
query ($first: Int!, $each: Int!) {
  conversations(first: $first) {
    id title lastMessageAt
    messages(first: $each) { id role content depth createdAt }
  }
}""",
    "chat_rows": """
query ($id: ID!, $first: Int!) {
  conversation(id: $id) { id messages(first: $first) { id role content depth createdAt } }
}""",
    "chat_deep": """
query ($id: ID!, $first: Int!, $after: String!) {
  conversation(id: $id) {
    id
    messages(first: $first, after: $after) { id role content depth createdAt }
  }
}""",
}


def postgraphile(*, open_: bool) -> dict[str, str]:
    """PostGraphile's names, under aliases that make its answers as long as the others'.

    Without row-level security (`open_`) the lists have to name their owner.
    """
    owner, whose = ("$owner: UUID!, ", "ownerId: $owner, ") if open_ else ("", "")
    live = "condition: {deletedAt: null}"
    tasks = f"tasks: tasksByOwnerIdAndProjectId(orderBy: NUMBER_ASC, {live}, "
    messages = f"messages: messagesByOwnerIdAndConversationId(orderBy: DEPTH_ASC, {live}, "
    task = "id: rowId number title status priority createdAt"
    message = "id: rowId role content depth createdAt"
    project = "project: projectByOwnerIdAndRowId(ownerId: $owner, rowId: $id)"
    conversation = "conversation: conversationByOwnerIdAndRowId(ownerId: $owner, rowId: $id)"
    projects = (
        f"projects: allProjects(orderBy: CREATED_AT_DESC, condition: {{{whose}deletedAt: null}}"
    )
    return {
        "one_row": f"""
query ($owner: UUID!, $id: UUID!) {{
  {conversation} {{ id: rowId title version createdAt updatedAt lastMessageAt }}
}}""",
        "lists": f"""
query ({owner}$first: Int!, $each: Int!) {{
  {projects}, first: $first) {{
    nodes {{
      id: rowId name createdAt
      {tasks}first: $each) {{ nodes {{ id: rowId number title status createdAt }} }}
    }}
  }}
}}""",
        "levels": f"""
query ({owner}$projects: Int!, $tasks: Int!, $steps: Int!) {{
  {projects}, first: $projects) {{
    nodes {{
      id: rowId name
      {tasks}first: $tasks) {{
        nodes {{
          id: rowId title status
          subtasks(orderBy: NUMBER_ASC, {live}, first: $steps) {{
            nodes {{ id: rowId title status }}
          }}
        }}
      }}
    }}
  }}
}}""",
        "rows": f"""
query ($owner: UUID!, $id: UUID!, $first: Int!) {{
  {project} {{ id: rowId {tasks}first: $first) {{ nodes {{ {task} }} }} }}
}}""",
        "deep": f"""
query ($owner: UUID!, $id: UUID!, $first: Int!, $after: Cursor!) {{
  {project} {{ id: rowId {tasks}first: $first, after: $after) {{ nodes {{ {task} }} }} }}
}}""",
        "insert": """
mutation ($input: CreateConversationInput!) {
  createConversation(input: $input) { conversation { id: rowId title createdAt } }
}""",
        "chat_lists": f"""
query ({owner}$first: Int!, $each: Int!) {{
  conversations: allConversations(
    orderBy: LAST_MESSAGE_AT_DESC, condition: {{{whose}deletedAt: null}}, first: $first
  ) {{
    nodes {{
      id: rowId title lastMessageAt
      {messages}first: $each) {{ nodes {{ {message} }} }}
    }}
  }}
}}""",
        "chat_rows": f"""
query ($owner: UUID!, $id: UUID!, $first: Int!) {{
  {conversation} {{ id: rowId {messages}first: $first) {{ nodes {{ {message} }} }} }}
}}""",
        "chat_deep": f"""
query ($owner: UUID!, $id: UUID!, $first: Int!, $after: Cursor!) {{
  {conversation} {{
    id: rowId {messages}first: $first, after: $after) {{ nodes {{ {message} }} }}
  }}
}}""",
    }


# Where a page of so many rows ends, in the words of those whose cursors are opaque.
ENGRAM_CURSOR = {
    "project": """
query ($id: ID!, $first: Int!, $after: String) {
  parent: project(id: $id) {
    page: tasks(first: $first, after: $after) { pageInfo { endCursor } }
  }
}""",
    "conversation": """
query ($id: ID!, $first: Int!, $after: String) {
  parent: conversation(id: $id) {
    page: messages(first: $first, after: $after) { pageInfo { endCursor } }
  }
}""",
}
POSTGRAPHILE_CURSOR = {
    "project": """
query ($owner: UUID!, $id: UUID!, $first: Int!, $after: Cursor) {
  parent: projectByOwnerIdAndRowId(ownerId: $owner, rowId: $id) {
    page: tasksByOwnerIdAndProjectId(
      orderBy: NUMBER_ASC, condition: {deletedAt: null}, first: $first, after: $after
    ) { pageInfo { endCursor } }
  }
}""",
    "conversation": """
query ($owner: UUID!, $id: UUID!, $first: Int!, $after: Cursor) {
  parent: conversationByOwnerIdAndRowId(ownerId: $owner, rowId: $id) {
    page: messagesByOwnerIdAndConversationId(
      orderBy: DEPTH_ASC, condition: {deletedAt: null}, first: $first, after: $after
    ) { pageInfo { endCursor } }
  }
}""",
}
