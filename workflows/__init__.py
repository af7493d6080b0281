"""The graphs, from small builders: anatomy, field, susceptibility, regions, outputs."""
