"""The constructs. Their public names stand at the top of the package; these modules are private."""
