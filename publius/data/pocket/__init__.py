"""The bundled world: invented, seeded, and measurable without a judge. See docs/pocket.md."""
