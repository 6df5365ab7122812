"""What travels from every net to the engines and back: its plan, a call of it, and what came of the call."""
