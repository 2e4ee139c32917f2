"""Replies: asking a model, writing down what it says, and never losing it."""

from server.replies.service import Replies

__all__ = ["Replies"]
