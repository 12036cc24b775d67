"""Reports in one HTML file without network: a page, charts as SVG, tables that sort, photos as data."""
