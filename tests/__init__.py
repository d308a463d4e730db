"""The tests of pgtask."""
