"""Who is near whom among millions of rows, on whatever device there is, within stated memory."""
