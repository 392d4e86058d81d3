"""The jobs: what each command does from its configuration to its result."""
