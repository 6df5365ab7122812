"""What is compiled: source around the headers of kernels/, the structs it is handed, and the functions it gives."""
