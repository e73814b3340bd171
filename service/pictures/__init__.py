"""From a picture, as a person has it, to an image, as a network takes it.

    fit.py         the ways to fit a picture to a model's input, and their record
    signatures.py  names the format of a file by its first bytes
    opaque.py      one form for every picture: opaque, 8 bits a channel, of bounded size
    jpeg.py        the segments of a JPEG file, as far as decoding needs them
    heic.py        decodes HEIC files, each in a process of its own
    files.py       picture files and raw pixels: formats, limits, decoding
    fitting.py     fits a picture to a model's input
    drawing.py     finds the drawing on a page, and brings it into the form of MNIST's digits
    sheet.py       finds the sheet of paper on a desk
    ink.py         how much darker each pixel is than the paper around it
    parts.py       the connected parts of a mask

A *picture* is a file or raw pixels of any size; an *image* is uint8 (height, width, channels), one row of a model's
input. How the one becomes the other is part of the model, so there is one implementation: this package is the only code
that the training job and the service share. It needs Pillow and NumPy, and pi-heif for HEIC.
"""
