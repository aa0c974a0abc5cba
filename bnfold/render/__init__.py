"""Records to text and JSON for people and programs; never measures, never judges. rich is imported where it draws."""
