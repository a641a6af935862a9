"""Monetization policies: documents as strict as IAM's that say who may call what, what counts, and how fast."""
