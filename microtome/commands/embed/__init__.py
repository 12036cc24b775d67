"""`microtome embed`: folders, lists, tars and Parquet columns of images become a file of vectors, or a folder.

Images are listed as they are needed (`sources`), embedded through a gateway (`engine`) or a SavedModel (`saved_model`),
and each result is appended to a journal (`journal`) before the next is taken. A run that is killed loses only work in
flight. At the end the journal becomes the result (`runner`). On a Ray cluster (`ray_engine`) workers do all of it
(`ray_stages`) and write a folder of files, whose manifest (`shards`) takes the journal's place.
"""
