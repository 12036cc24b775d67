"""`microtome embed`: folders, lists, tars and Parquet columns of images become one file of vectors, whatever happens.

Images are listed as they are needed (`sources`), embedded through a gateway (`gateway_engine`) or by a Ray cluster
(`ray_engine`), and each result is appended to a journal (`journal`) before the next is looked at. A run that is killed
loses what was on its way and nothing else. When all is done the journal becomes the file asked for (`finishing`).
"""
