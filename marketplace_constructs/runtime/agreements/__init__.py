"""Agreements at run time: the table of facts, and making access match what the facts say."""
