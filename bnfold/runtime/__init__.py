"""How models are run: one Session protocol, one file a runtime."""
