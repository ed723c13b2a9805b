"""Jobs: pieces of work that processes of this machine or a Ray cluster make, each once and into a folder of its own."""
