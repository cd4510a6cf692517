"""Files and folders at URLs: s3://, gs://, hf://, http(s):// and memory://."""
