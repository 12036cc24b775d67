"""`microtome embed`: folders, lists, tars and Parquet columns of images become one file of vectors.

Images are listed as they are needed (`sources`), embedded through a gateway (`engine`) or by a Ray cluster
(`ray_engine`), and each result is appended to a journal (`journal`) before the next is taken. A run that is killed
loses only work in flight. At the end the journal becomes the result (`runner`).
"""
