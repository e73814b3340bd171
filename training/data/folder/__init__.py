"""A user's own pictures as a data set: one folder per class; the folder's name is the label.

In reading order:

    files.py     the tree of folders and picture files, and what is passed over
    layout.py    which folders are the classes, and which are splits that the user made
    memory.py    whether the images fit into memory
    reading.py   reads the files, in parallel, as the service will
    cache.py     the images of an earlier run
    splits.py    which images are test images, and which are copies of each other
    load.py      all of this, from a path to a Dataset

The code that the service decodes and fits pictures with makes the images, so that a file that is sent to the service
reaches the network as the image that it was taught.
"""
