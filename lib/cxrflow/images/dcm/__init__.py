"""DICOM: parse a file, decode its pixel data, and convert the stored values to gray as the standard says.

Reading order: ``file_parser`` (bytes to a data set), ``elements`` (tolerant access to its elements), ``pixel_data``
(the first frame's stored values), ``frame_codecs`` (compressed frames), ``grayscale`` (Modality LUT, VOI LUT and
presentation), ``lookup_tables``, ``color``, ``header_columns`` (columns for the table). ``docs/dicom.md`` lists which
parts of the standard are honoured.
"""
