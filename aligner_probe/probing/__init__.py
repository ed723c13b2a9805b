"""Is a task form, latent, or new? What is measured, what follows from it, and the runs it takes."""
