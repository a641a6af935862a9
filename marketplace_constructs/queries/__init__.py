"""SQL and column schemas: one text for meter, simulation and reports. Standard library only."""
