"""What every subpackage uses: files, enums, errors, random generators, progress. Imports nothing of the project."""
