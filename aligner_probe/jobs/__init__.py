"""Long work in pieces: jobs on processes or a cluster, each a folder that is whole or not there, none made twice."""
