"""Other people's frameworks; nothing in pgtask imports this."""
