"""What every stage stands on: command line, files, tables, records, shards, figures. Knows nothing of the study."""
