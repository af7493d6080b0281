"""qsmals: susceptibility maps and region tables for studies of amyotrophic lateral sclerosis."""

__version__ = "0.1.0.dev0"
