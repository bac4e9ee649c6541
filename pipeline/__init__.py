"""The floor: stages, schemas, settings, storage, the runner and the `msd` command. Imports no other room."""
