"""Read tables with every cell as text: CSV and similar, Parquet, JSON, Excel; compressed, archived or in parts.

```python
with open_table(Path("plays.csv.gz")) as table:
    table.names                       # column names
    table.notes                       # sentences for the report, for example on the encoding
    frame = table.read(["user", "item"])
```
"""

from tritone_training.data.tables.opening import open_table
from tritone_training.data.tables.sources import location_of, url_of
from tritone_training.data.tables.table import NOT_UTF8, NOTHING, Table

__all__ = ["NOTHING", "NOT_UTF8", "Table", "location_of", "open_table", "url_of"]
