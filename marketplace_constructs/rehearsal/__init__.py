"""A sale on this machine: a local AWS, a Marketplace beside it, and journeys with promises to keep."""
