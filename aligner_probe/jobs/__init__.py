"""Long work in pieces: jobs on worker processes, each a folder that is whole or not there, none made twice."""
