"""Judging answers with a language model: prompts, a client that loses and repays nothing, servers, length control."""
