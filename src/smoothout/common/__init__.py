"""What every room uses: files, enums, errors, random generators, progress. Imports nothing of the project."""
