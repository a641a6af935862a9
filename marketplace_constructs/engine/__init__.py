"""The engine: DuckDB in bounded memory, for whoever judges lines; it knows no cloud and no policy."""
