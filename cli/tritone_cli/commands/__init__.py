"""The commands of `tritone`; those of one subject share a module."""
