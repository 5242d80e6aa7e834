"""Runs on the hub of Hugging Face, or in a folder like it: push, fetch, model card."""
